"""Commands, one file each: the only room that prints or exits."""
