"""Waterline: convolutional networks at the speed of the machine."""
