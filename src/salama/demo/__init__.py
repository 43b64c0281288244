"""What ``salama demo`` plays: real processes, real messages, and books that anybody may check again afterwards."""
