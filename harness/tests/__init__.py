"""Tests of the judge, of the rules between folders and of the packaging."""
