"""What each verb that works on releases does; one module a verb, loaded when it is called."""
