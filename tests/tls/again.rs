//! What is tested of the protocol in plain text, once more inside TLS.

use super::client::inside_tls;
use crate::wire::{chunks, commands, crowds, flow, info, options, ranges, shutdown};

#[test]
fn commands_are_answered_alike() {
    inside_tls(|| {
        commands::every_command_takes_its_flags_and_no_others();
        commands::unknown_commands_are_refused_and_in_sync();
        commands::cookies_are_repeated_whatever_they_are();
        commands::what_is_written_is_read_there_and_nowhere_else();
        commands::zeroes_and_trims_touch_their_range_only();
        commands::flush_and_fua_are_offered_and_work();
        commands::flags_tell_what_the_disk_can_do();
        commands::read_only_disks_can_only_be_read();
    });
}

#[test]
fn chunks_are_the_same() {
    inside_tls(|| {
        chunks::reads_tell_holes_from_data();
        chunks::reads_with_df_are_one_chunk();
        chunks::errors_have_a_text();
        chunks::pipelined_reads_are_each_complete();
        chunks::status_says_what_reads_as_zeroes();
        chunks::status_of_any_range_and_of_one_extent();
        chunks::fragmented_disk_is_walked_in_steps();
        chunks::lengths_of_64_bits_are_not_cut();
        chunks::payloads_that_no_command_expects_are_consumed();
        chunks::payload_of_block_status_names_contexts();
        chunks::write_without_its_payload_flag_is_not_executed_early();
        chunks::requests_in_the_other_format_are_not_executed();
    });
}

#[test]
fn ranges_are_the_same() {
    inside_tls(|| {
        ranges::ranges_beyond_the_end_are_refused_and_in_sync();
        ranges::empty_ranges_are_answered();
        ranges::first_and_last_block_can_be_written_and_read();
        ranges::pattern_is_right_from_one_end_of_the_largest_disk_to_the_other();
        ranges::payloads_up_to_the_maximum_are_taken();
        ranges::payloads_of_32_mib_are_drained_even_if_the_disk_is_smaller();
        ranges::writes_of_4_gib_end_the_connection();
        ranges::requests_without_payload_may_be_as_long_as_the_disk();
        ranges::block_status_of_4_gib_on_8_gib();
    });
}

#[test]
fn information_is_the_same() {
    inside_tls(|| {
        info::info_and_go_tell_the_same();
        info::unknown_exports_are_refused_without_information();
        info::names_of_any_script_and_of_4096_bytes_are_served();
        info::list_and_set_match_contexts();
        info::malformed_context_options_are_refused_and_in_sync();
        info::selection_is_for_one_name_and_the_last_set();
        info::contexts_come_after_structured_replies();
        info::structured_replies_and_extended_headers_are_negotiated_without_data();
        info::what_is_turned_off_is_unknown();
    });
}

#[test]
fn streams_flow_alike() {
    inside_tls(|| {
        flow::pipelined_requests_are_each_answered_once();
        flow::requests_in_pieces_are_requests();
        flow::slow_readers_get_every_reply();
        flow::writes_before_disc_take_effect();
        flow::disc_closes_whatever_its_fields_say();
        flow::who_only_stops_sending_still_gets_its_replies();
        flow::what_was_flushed_is_seen_on_all_connections();
        flow::a_request_and_a_half_is_a_request();
    });
}

#[test]
fn options_are_answered_alike() {
    inside_tls(|| {
        options::unknown_options_are_refused_and_their_data_is_skipped();
        options::option_of_4_gib_ends_the_connection();
        options::lengths_that_lie_are_refused_and_in_sync();
        options::abort_is_acknowledged_whatever_comes_with_it();
        options::list_tells_names_that_can_be_used();
        options::export_name_is_followed_by_transmission();
        options::export_name_that_cannot_be_had_ends_the_connection();
    });
}

#[test]
fn those_who_do_not_read_take_little_memory() {
    inside_tls(|| {
        crowds::who_does_not_read_takes_little_memory();
        crowds::memory_of_large_requests_is_given_back();
    });
}

#[test]
fn shutting_down_is_the_same() {
    inside_tls(|| {
        shutdown::requests_are_refused_once_the_server_stops();
        shutdown::requests_in_flight_are_finished();
        shutdown::who_does_not_go_is_disconnected();
    });
}
