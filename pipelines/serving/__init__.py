"""The service: a registered model behind HTTP on Ray Serve, which follows the champion and takes corrections.

routes     what a client sees: FastAPI, limits, token, forms of masks
ingress    the deployment that runs it, on CPUs
segmenter  the deployment that holds the network, one replica a GPU
following  which version that is: an alias is followed, what does not load leaves the old version serving
page       what a person sees, as files
label_studio  the same answers and corrections as a backend of Label Studio
"""
