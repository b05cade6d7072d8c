"""A laboratory's own judgement of a model: its slides beside a pathologist's figures."""
