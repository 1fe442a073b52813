//! The programs that a lab's images stand for: agnhost, serve_hostname, nginx
