"""What `ascl validate`, `ascl test` and `ascl report` measure, write and show."""
