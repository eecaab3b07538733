"""What the processes of one server leave for each other, as files in a folder of their own."""
