"""The two papers' studies as steps that continue."""
