//! TCP socket options.
//!
//! This module knows nothing of what is sent over the connections.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use rustix::net::sockopt;
use tokio::net::TcpStream;

/// How long a client may be silent before it is probed, the interval between probes, and how many
/// unanswered probes end the connection.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEPALIVE_COUNT: u32 = 4;

/// The congestion control for connections within one machine (tcp(7), TCP_CONGESTION). Reno adapts
/// to loss, and there is none here. Every Linux system has it and lets any user choose it. BBR,
/// which many systems prefer, measures the rate and keeps to it. That is right for networks; within
/// a machine it measures how threads take turns, and reads of 256 KiB run at 2.4 to 3.6 GiB/s, at a
/// different rate on each connection, instead of 4.7.
const WITHIN_MACHINE: &str = "reno";

/// Sets the options of an accepted connection. Small replies are not delayed, and keepalive detects
/// machines that vanished silently, which would otherwise occupy their connections for ever.
///
/// # Errors
///
/// Returns an error if an option cannot be set. The options that come after it are not set then.
pub fn set_options(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(stream, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(stream, KEEPALIVE_COUNT)?;
    if is_within_machine(stream.local_addr()?, stream.peer_addr()?) {
        sockopt::set_tcp_congestion(stream, WITHIN_MACHINE)?;
    }
    Ok(())
}

/// Returns whether both ends are on this machine: their addresses are the same, or the peer's is a
/// loopback address.
fn is_within_machine(local: SocketAddr, peer: SocketAddr) -> bool {
    let (local, peer) = (local.ip().to_canonical(), peer.ip().to_canonical());
    local == peer || peer.is_loopback()
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn options_are_set() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(address).await.unwrap();
            let client = TcpStream::connect(listener.local_addr().unwrap());
            let (_client, accepted) = tokio::join!(client, listener.accept());
            let (stream, _) = accepted.unwrap();
            set_options(&stream).unwrap();
            assert!(stream.nodelay().unwrap());
            assert!(sockopt::socket_keepalive(&stream).unwrap());
            assert_eq!(sockopt::tcp_keepidle(&stream).unwrap(), KEEPALIVE_IDLE);
            assert_eq!(sockopt::tcp_keepintvl(&stream).unwrap(), KEEPALIVE_INTERVAL);
            assert_eq!(sockopt::tcp_keepcnt(&stream).unwrap(), KEEPALIVE_COUNT);
            assert_eq!(sockopt::tcp_congestion(&stream).unwrap(), WITHIN_MACHINE, "{address}");
        }
    }

    #[test]
    fn ends_of_one_machine_are_told_from_others() {
        let within = |local: &str, peer: &str| {
            is_within_machine(local.parse().unwrap(), peer.parse().unwrap())
        };
        assert!(within("127.0.0.1:10809", "127.0.0.1:1"));
        assert!(within("127.0.0.2:10809", "127.0.0.1:1"));
        assert!(within("[::1]:10809", "[::1]:1"));
        assert!(within("[::ffff:127.0.0.1]:10809", "[::ffff:127.0.0.1]:1"));
        assert!(within("192.0.2.1:10809", "192.0.2.1:1"));
        assert!(within("[2001:db8::1]:10809", "[2001:db8::1]:1"));
        assert!(!within("192.0.2.1:10809", "192.0.2.2:10809"));
        assert!(!within("[2001:db8::1]:10809", "[2001:db8::2]:1"));
    }
}
