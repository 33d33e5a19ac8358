"""Leaks of every kind and probability, and workloads without one: who is named, after how many tasks."""
