"""Picture sets, splits, few-shot draws and views of pictures."""
