"""The libraries that the cases compare with, behind one small face each."""
