"""Jobs over many pictures, in several processes and on Ray clusters."""
