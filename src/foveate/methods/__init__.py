"""Ways to classify pictures with a frozen CLIP, one file each."""
