"""All of joining and starting Ray: `session.connect` is the one way in which anything here gets a cluster."""
