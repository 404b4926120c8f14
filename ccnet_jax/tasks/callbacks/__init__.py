"""What happens beside the steps and depends on the task, a class and a file each."""
