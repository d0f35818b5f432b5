"""Pure room: decides for each request where it goes, when and with whom. Time is an argument."""
