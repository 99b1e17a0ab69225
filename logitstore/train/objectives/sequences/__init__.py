"""Objectives on whole samples: functions of the logprobs that the student and the reference give to each of them."""
