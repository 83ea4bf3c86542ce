"""What is known of a release before there is a root."""
