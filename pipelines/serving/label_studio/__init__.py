"""The service as a backend of Label Studio: masks before anybody paints, and corrections of what somebody has painted.

In a project's settings a Model is added by the service's address. Label Studio then asks `/predict` for the tasks that
are opened or selected, and tells `/webhook` of every annotation that is submitted.
https://labelstud.io/guide/ml and https://labelstud.io/guide/webhook_reference say what it sends.

    labelling   what the project's label config says: where the photo, the sentence and the painted regions are
    asking      from a request for predictions to photos and sentences
    answering   from masks to regions
    annotations from annotations to corrections
    photos      gets the photos of tasks, wherever Label Studio keeps them
    routes      what it calls
"""
