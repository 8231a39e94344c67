"""The node controller: keeps connections, takes hosts over, lists them, cleans up what is stale, says what they show."""
