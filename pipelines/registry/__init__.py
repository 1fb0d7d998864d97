"""All of MLflow: where it is, the record of runs, the registered models, and the gates to becoming the champion."""
