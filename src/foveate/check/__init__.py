"""What is wrong with photos, before anything is learned from them."""
