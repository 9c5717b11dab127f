"""A loss each: a frozen dataclass of its parameters, found by its `name` (`cxrdali.models.loss`)."""
