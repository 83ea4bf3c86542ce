"""Stages that make a root of data that other people and programs prepared."""
