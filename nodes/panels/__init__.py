"""Drawing, judging and closing a panel: the work of the node `panel_round`, a part a file."""
