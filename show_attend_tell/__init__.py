"""Image captioning with soft and hard visual attention (Xu et al. 2015) in JAX and Flax NNX."""
