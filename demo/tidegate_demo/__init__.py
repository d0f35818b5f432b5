"""The demo: four versions of a digit classifier, real traffic, and Tidegate deciding on them."""
