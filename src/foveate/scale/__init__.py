"""The jobs on many pictures, in several processes and on Ray clusters."""
