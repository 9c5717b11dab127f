"""A sampler each: a frozen dataclass of its parameters, found by its `name` (`cxrdali.data.sampler`)."""
