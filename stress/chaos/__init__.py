"""Faults on purpose: whatever is killed or stopped, no task is lost, ended twice, or left behind."""
