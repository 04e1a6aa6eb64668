"""On which side of the infinite-width limits a model of finite width is."""
