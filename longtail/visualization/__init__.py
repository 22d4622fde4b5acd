"""Pictures of labels, boxes and masks."""
