"""What browsers are given as it is: the tag and the demo page."""
