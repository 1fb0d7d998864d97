"""The service: a registered model behind HTTP, with its page, as a backend of Label Studio too."""
