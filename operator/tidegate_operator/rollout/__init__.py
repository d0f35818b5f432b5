"""Pure room: what is to be done with a model's traffic. Time is an argument."""
