//! elioctl
