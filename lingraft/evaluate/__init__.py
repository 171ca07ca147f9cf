"""Is it better? Several models side by side: bits per character, tasks, answers, and a report to look at."""
