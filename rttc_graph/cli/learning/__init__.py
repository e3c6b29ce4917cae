"""The commands that change what the policy model itself answers."""
