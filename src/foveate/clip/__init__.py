"""The frozen foundation model: two towers, their weights, their texts."""
