//! The options of TCP connections.
//!
//! It knows nothing of what is said over them.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use rustix::net::sockopt;
use tokio::net::TcpStream;

/// After how long without a sign of life a client is asked for one, how often, and how many times in
/// vain.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEPALIVE_COUNT: u32 = 4;

/// How the rate of sending is found within a machine (tcp(7), TCP_CONGESTION): by what is lost, of
/// which there is nothing. Every Linux has it and lets everybody choose it. BBR, which many
/// systems prefer, measures rates and keeps to them, which is right for networks; here what it
/// measures is how threads take turns, and reads of 256 KiB come at 2.4 to 3.6 GiB/s, another rate for
/// each connection, instead of 4.7.
const WITHIN_MACHINE: &str = "reno";

/// Small replies are not held back. A machine that vanished without a word is found out, or its
/// connections would be taken for ever.
///
/// # Errors
///
/// Those of the system; what comes after the option that failed is not set.
pub(crate) fn set_options(stream: &TcpStream) -> io::Result<()> {
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

/// Whether both ends are the same machine's: they have the same address, or one that leads nowhere
/// else.
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
