"""What a student reads before the answers, in place of what the teacher read there."""
