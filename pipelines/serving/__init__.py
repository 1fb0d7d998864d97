"""The service: a registered model behind HTTP on Ray Serve, which follows the champion and takes corrections.

http       what a client sees: FastAPI, limits, token, forms of masks
ingress    the deployment that runs it, on CPUs
segmenter  the deployment that holds the network, one replica a GPU
following  which version that is: an alias is followed, what does not load leaves the old version serving
"""
