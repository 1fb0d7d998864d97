"""The stages, thin, and in the rooms beside them what they do on Ray and MLflow, which nothing else imports."""
