"""Pictures, splits, few-shot draws and the views made of them."""
