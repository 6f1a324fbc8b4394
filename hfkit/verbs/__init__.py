"""What each verb of the command line does. A verb imports what it needs when it runs."""
