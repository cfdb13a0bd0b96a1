// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IChannelEscrow} from "microwallet/escrow/contract/IChannelEscrow.sol";
import {ReentrantAccount} from "../src/Accounts.sol";
import {Fixture} from "../src/Fixture.sol";

/// @notice Cases of requestClose.tree and withdraw.tree.
contract WithdrawTest is Fixture {
    function _requestData(IChannelEscrow.ChannelDescriptor memory channel) private pure returns (bytes memory) {
        return abi.encodeCall(IChannelEscrow.requestClose, (channel));
    }

    function _withdrawData(IChannelEscrow.ChannelDescriptor memory channel) private pure returns (bytes memory) {
        return abi.encodeCall(IChannelEscrow.withdraw, (channel));
    }

    function test_request_close_starts_the_grace_period() public {
        IChannelEscrow.ChannelDescriptor memory channel = _opened(address(usdc));
        vm.expectEmit(address(escrow));
        emit IChannelEscrow.CloseRequested(_id(channel), payer, payee, START + 900);
        _call(payer, _requestData(channel));
        _checkState(channel, DEPOSIT, 0, START, false);
    }

    function testFuzz_request_close_again_changes_nothing(uint16 later) public {
        IChannelEscrow.ChannelDescriptor memory channel = _opened(address(usdc));
        _call(payer, _requestData(channel));
        vm.warp(START + later);
        vm.expectEmit(address(escrow), 0);
        emit IChannelEscrow.CloseRequested(_id(channel), payer, payee, START + later + 900);
        _call(payer, _requestData(channel));
        _checkState(channel, DEPOSIT, 0, START, false);
    }

    function test_request_close_after_a_cancelled_one_starts_anew() public {
        IChannelEscrow.ChannelDescriptor memory channel = _opened(address(usdc));
        _call(payer, _requestData(channel));
        vm.warp(START + 800);
        _call(payer, abi.encodeCall(IChannelEscrow.topUp, (channel, 1)));
        _call(payer, _requestData(channel));
        _checkState(channel, DEPOSIT + 1, 0, START + 800, false);
        vm.warp(START + 1699);
        _call(payer, _withdrawData(channel), _notReady(START + 1700));
        vm.warp(START + 1700);
        _call(payer, _withdrawData(channel));
    }

    function test_request_close_is_the_payers_alone() public {
        IChannelEscrow.ChannelDescriptor memory channel = _opened(address(usdc));
        _call(payee, _requestData(channel), _error(IChannelEscrow.NotPayer.selector, payee, payer));
    }

    function test_request_close_needs_a_channel() public {
        IChannelEscrow.ChannelDescriptor memory channel = _channel(address(usdc));
        _call(payer, _requestData(channel), _error(IChannelEscrow.ChannelNotFound.selector, _id(channel)));
    }

    function test_request_close_refuses_a_finalized_channel() public {
        IChannelEscrow.ChannelDescriptor memory channel = _opened(address(usdc));
        _call(payee, _closeData(channel, 5, 5));
        _call(payer, _requestData(channel), _error(IChannelEscrow.ChannelFinalized.selector, _id(channel)));
    }

    function testFuzz_withdraw_refunds_what_is_not_settled(bool native, uint128 settled) public {
        IChannelEscrow.ChannelDescriptor memory channel =
            _settled(native ? NATIVE : address(usdc), settled % (DEPOSIT + 1));
        settled = settled % (DEPOSIT + 1);
        _call(payer, _requestData(channel));
        vm.warp(START + 900);
        uint256 before = _tokenBalance(channel.token, payer);
        vm.expectEmit(address(escrow));
        emit IChannelEscrow.ChannelClosed(_id(channel), payer, payee, settled, DEPOSIT - settled);
        _call(payer, _withdrawData(channel));
        _checkState(channel, DEPOSIT, settled, START, true);
        vm.assertEq(_tokenBalance(channel.token, payer) - before, DEPOSIT - settled, "refunded");
        vm.assertEq(_tokenBalance(channel.token, address(escrow)), 0, "nothing left");
    }

    function _notReady(uint256 withdrawableAt) private pure returns (bytes memory) {
        return abi.encodeWithSelector(IChannelEscrow.CloseNotReady.selector, withdrawableAt);
    }

    function test_withdraw_at_the_edge_of_the_grace_period() public {
        IChannelEscrow.ChannelDescriptor memory early = _opened(address(usdc));
        IChannelEscrow.ChannelDescriptor memory onTime = _opened(address(usdc));
        IChannelEscrow.ChannelDescriptor memory late = _opened(address(usdc));
        _call(payer, _requestData(early));
        _call(payer, _requestData(onTime));
        _call(payer, _requestData(late));
        vm.warp(START + 899);
        _call(payer, _withdrawData(early), _notReady(START + 900));
        vm.warp(START + 900);
        _call(payer, _withdrawData(onTime));
        vm.warp(START + 901);
        _call(payer, _withdrawData(late));
    }

    function testFuzz_withdraw_before_the_grace_period_is_over(uint256 later) public {
        IChannelEscrow.ChannelDescriptor memory channel = _opened(address(usdc));
        _call(payer, _requestData(channel));
        vm.warp(START + later % 900);
        _call(payer, _withdrawData(channel), _notReady(START + 900));
    }

    function test_withdraw_needs_a_request() public {
        IChannelEscrow.ChannelDescriptor memory channel = _opened(address(usdc));
        vm.warp(START + 365 days);
        _call(payer, _withdrawData(channel), _notReady(0));
    }

    function test_withdraw_is_the_payers_alone() public {
        IChannelEscrow.ChannelDescriptor memory channel = _opened(address(usdc));
        _call(payer, _requestData(channel));
        vm.warp(START + 900);
        _call(stranger, _withdrawData(channel), _error(IChannelEscrow.NotPayer.selector, stranger, payer));
        _call(payee, _withdrawData(channel), _error(IChannelEscrow.NotPayer.selector, payee, payer));
    }

    function test_withdraw_needs_a_channel() public {
        IChannelEscrow.ChannelDescriptor memory channel = _channel(address(usdc));
        _call(payer, _withdrawData(channel), _error(IChannelEscrow.ChannelNotFound.selector, _id(channel)));
    }

    function testFuzz_withdraw_pays_once(bool closed) public {
        IChannelEscrow.ChannelDescriptor memory channel = _opened(address(usdc));
        _opened(address(usdc));
        _call(payer, _requestData(channel));
        vm.warp(START + 900);
        if (closed) _call(payee, _closeData(channel, 5, 5));
        else _call(payer, _withdrawData(channel));
        _call(payer, _withdrawData(channel), _error(IChannelEscrow.ChannelFinalized.selector, _id(channel)));
    }

    function test_withdraw_cannot_be_entered_again() public {
        ReentrantAccount account = new ReentrantAccount();
        vm.deal(address(account), 2 * DEPOSIT);
        IChannelEscrow.ChannelDescriptor memory channel = _channel(NATIVE);
        IChannelEscrow.ChannelDescriptor memory other = _channel(NATIVE);
        channel.payer = other.payer = address(account);
        account.act(address(escrow), DEPOSIT, _openData(channel, DEPOSIT));
        account.act(address(escrow), DEPOSIT, _openData(other, DEPOSIT));
        account.act(address(escrow), 0, _requestData(channel));
        account.act(address(escrow), 0, _requestData(other));
        vm.warp(START + 900);
        account.arm(address(escrow), _withdrawData(other));
        account.act(address(escrow), 0, _withdrawData(channel));
        vm.assertEq(account.called(), true, "called back");
        vm.assertEq(account.succeeded(), false, "entered again");
        _checkState(other, DEPOSIT, 0, START, false);
    }
}
