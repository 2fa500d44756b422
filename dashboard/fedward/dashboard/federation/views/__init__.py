"""What a study's record comes to, as plain frames and sentences: no page, no chart, no clock, no store. NaN means undefined."""
