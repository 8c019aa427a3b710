"""One picture of the fleet, for the dashboard's widget and for the command line's page. Standard library only."""
