"""The asymmetry report card: recall when captions say too little, too much or a wrong thing."""
