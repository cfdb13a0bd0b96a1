// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IChannelEscrow} from "microwallet/escrow/contract/IChannelEscrow.sol";
import {ReentrantAccount, RefusingAccount} from "../src/Accounts.sol";
import {Fixture} from "../src/Fixture.sol";
import {BlockingToken, NoReturnToken, ReentrantToken} from "../src/Tokens.sol";

/// @notice Cases of settle.tree and close.tree. What both share is tested for both.
contract CaptureTest is Fixture {
    function _captureData(
        bool closing,
        IChannelEscrow.ChannelDescriptor memory channel,
        uint128 cumulative,
        uint128 capture,
        bytes memory signature
    ) private pure returns (bytes memory) {
        if (closing) {
            return abi.encodeCall(IChannelEscrow.close, (channel, cumulative, capture, signature));
        }
        return abi.encodeCall(IChannelEscrow.settle, (channel, cumulative, capture, signature));
    }

    function _captureData(
        bool closing,
        IChannelEscrow.ChannelDescriptor memory channel,
        uint128 cumulative,
        uint128 capture
    ) private view returns (bytes memory) {
        return _captureData(closing, channel, cumulative, capture, _voucher(channel, cumulative, SIGNER_KEY));
    }

    function _token(bool native) private view returns (address) {
        return native ? NATIVE : address(usdc);
    }

    function testFuzz_settle_pays_the_payee(bool native) public {
        IChannelEscrow.ChannelDescriptor memory channel = _settled(_token(native), 10);
        uint256 before = _tokenBalance(channel.token, payee);
        vm.expectEmit(address(escrow));
        emit IChannelEscrow.Settled(_id(channel), payer, payee, 20, 30);
        _call(payee, _settleData(channel, 40, 30));
        _checkState(channel, DEPOSIT, 30, 0, false);
        vm.assertEq(_tokenBalance(channel.token, payee) - before, 20, "paid");
        vm.assertEq(_tokenBalance(channel.token, address(escrow)), DEPOSIT - 30, "held");
    }

    function testFuzz_close_pays_the_payee_and_refunds_the_payer(bool native) public {
        IChannelEscrow.ChannelDescriptor memory channel = _settled(_token(native), 10);
        uint256 payeeBefore = _tokenBalance(channel.token, payee);
        uint256 payerBefore = _tokenBalance(channel.token, payer);
        vm.expectEmit(address(escrow));
        emit IChannelEscrow.ChannelClosed(_id(channel), payer, payee, 30, DEPOSIT - 30);
        _call(payee, _closeData(channel, 40, 30));
        _checkState(channel, DEPOSIT, 30, 0, true);
        vm.assertEq(_tokenBalance(channel.token, payee) - payeeBefore, 20, "paid");
        vm.assertEq(_tokenBalance(channel.token, payer) - payerBefore, DEPOSIT - 30, "refunded");
        vm.assertEq(_tokenBalance(channel.token, address(escrow)), 0, "nothing left");
    }

    function test_close_of_an_exhausted_channel_refunds_nothing() public {
        IChannelEscrow.ChannelDescriptor memory channel = _settled(address(usdc), DEPOSIT);
        uint256 before = usdc.balanceOf(payer);
        _call(payee, abi.encodeCall(IChannelEscrow.close, (channel, DEPOSIT, DEPOSIT, "")));
        _checkState(channel, DEPOSIT, DEPOSIT, 0, true);
        vm.assertEq(usdc.balanceOf(payer), before, "refunded");
    }

    function testFuzz_close_of_what_is_settled_needs_no_voucher(uint128 settled, bytes memory signature) public {
        settled = settled % (DEPOSIT + 1);
        IChannelEscrow.ChannelDescriptor memory channel = _settled(address(usdc), settled);
        uint256 before = usdc.balanceOf(payee);
        _call(payee, _captureData(true, channel, settled, settled, signature));
        _checkState(channel, DEPOSIT, settled, 0, true);
        vm.assertEq(usdc.balanceOf(payee), before, "paid");
    }

    function testFuzz_capture_above_settled_needs_a_voucher(bool closing, uint128 settled) public {
        settled = settled % DEPOSIT;
        IChannelEscrow.ChannelDescriptor memory channel = _settled(address(usdc), settled);
        bytes memory expected = _invalidSignature(signer, _voucherDigest(channel, settled + 1));
        _call(payee, _captureData(closing, channel, settled + 1, settled + 1, ""), expected);
        _call(payee, _captureData(closing, channel, settled + 1, settled + 1));
    }

    /// @dev Every combination of -1, 0 and +1 around each bound, against the rules written down once more.
    function testFuzz_capture_bounds(bool closing, uint128 settled, uint128 cumulative, uint8 base, uint8 step) public {
        settled = 1 + settled % (DEPOSIT - 1);
        cumulative = cumulative % (2 * DEPOSIT);
        uint128 capture = base % 3 == 0 ? settled : base % 3 == 1 ? cumulative : DEPOSIT;
        capture = capture + step % 3;
        if (capture != 0) capture -= 1;
        IChannelEscrow.ChannelDescriptor memory channel = _settled(address(usdc), settled);
        bytes memory expected;
        if (capture < settled || (capture == settled && !closing)) {
            expected = _error(IChannelEscrow.AmountNotIncreasing.selector, capture, settled);
        } else if (capture > cumulative) {
            expected = _error(IChannelEscrow.CaptureAmountInvalid.selector, capture, cumulative);
        } else if (capture > DEPOSIT) {
            expected = _error(IChannelEscrow.AmountExceedsDeposit.selector, capture, DEPOSIT);
        }
        uint256 before = usdc.balanceOf(payee);
        _call(payee, _captureData(closing, channel, cumulative, capture), expected);
        bool done = expected.length == 0;
        _checkState(channel, DEPOSIT, done ? capture : settled, 0, done && closing);
        vm.assertEq(usdc.balanceOf(payee) - before, done ? capture - settled : 0, "paid");
    }

    function testFuzz_settle_equal_to_settled_is_refused(uint128 settled) public {
        settled = settled % (DEPOSIT + 1);
        IChannelEscrow.ChannelDescriptor memory channel = _settled(address(usdc), settled);
        bytes memory expected = _error(IChannelEscrow.AmountNotIncreasing.selector, settled, settled);
        _call(payee, _settleData(channel, settled, settled), expected);
    }

    function testFuzz_capture_from_a_voucher_of_any_size(bool closing, uint128 cumulative) public {
        IChannelEscrow.ChannelDescriptor memory channel = _opened(address(usdc));
        cumulative = cumulative < DEPOSIT ? cumulative + DEPOSIT : cumulative;
        _call(payee, _captureData(closing, channel, cumulative, DEPOSIT));
        _checkState(channel, DEPOSIT, DEPOSIT, 0, closing);
    }

    function testFuzz_capture_is_the_payees_alone(bool closing) public {
        IChannelEscrow.ChannelDescriptor memory channel = _opened(address(usdc));
        bytes memory data = _captureData(closing, channel, 5, 5);
        _call(payer, data, _error(IChannelEscrow.NotPayee.selector, payer, payee));
        _call(stranger, data, _error(IChannelEscrow.NotPayee.selector, stranger, payee));
        channel.payee = stranger;
        bytes memory expected = _error(IChannelEscrow.ChannelNotFound.selector, _id(channel));
        _call(stranger, _captureData(closing, channel, 5, 5), expected);
    }

    function testFuzz_capture_needs_a_channel(bool closing) public {
        IChannelEscrow.ChannelDescriptor memory channel = _channel(address(usdc));
        bytes memory expected = _error(IChannelEscrow.ChannelNotFound.selector, _id(channel));
        _call(payee, _captureData(closing, channel, 5, 5), expected);
        _call(payee, _captureData(closing, channel, 0, 0, ""), expected);
    }

    function testFuzz_capture_refuses_a_finalized_channel(bool closing, bool withdrawn) public {
        IChannelEscrow.ChannelDescriptor memory channel = _opened(address(usdc));
        if (withdrawn) {
            _call(payer, abi.encodeCall(IChannelEscrow.requestClose, (channel)));
            vm.warp(START + 900);
            _call(payer, abi.encodeCall(IChannelEscrow.withdraw, (channel)));
        } else {
            _call(payee, _closeData(channel, 5, 5));
        }
        bytes memory expected = _error(IChannelEscrow.ChannelFinalized.selector, _id(channel));
        _call(payee, _captureData(closing, channel, 6, 6), expected);
        _call(payee, _captureData(closing, channel, 5, 5), expected);
    }

    function testFuzz_capture_works_while_a_close_is_pending_and_after(bool closing, uint16 later) public {
        IChannelEscrow.ChannelDescriptor memory channel = _opened(address(usdc));
        _call(payer, abi.encodeCall(IChannelEscrow.requestClose, (channel)));
        vm.warp(START + later);
        _call(payee, _captureData(closing, channel, 5, 5));
        _checkState(channel, DEPOSIT, 5, START, closing);
    }

    function test_settle_does_not_restart_the_grace_period() public {
        IChannelEscrow.ChannelDescriptor memory channel = _opened(address(usdc));
        _call(payer, abi.encodeCall(IChannelEscrow.requestClose, (channel)));
        vm.warp(START + 899);
        _call(payee, _settleData(channel, 5, 5));
        vm.warp(START + 900);
        _call(payer, abi.encodeCall(IChannelEscrow.withdraw, (channel)));
        vm.assertEq(usdc.balanceOf(payee), 5, "paid");
    }

    function test_capture_pays_with_a_token_without_return_values() public {
        NoReturnToken token = new NoReturnToken();
        _fund(address(token), payer);
        IChannelEscrow.ChannelDescriptor memory channel = _opened(address(token));
        _call(payee, _settleData(channel, 5, 5));
        _call(payee, _closeData(channel, 7, 7));
        vm.assertEq(token.balanceOf(payee), 7, "paid");
        vm.assertEq(token.balanceOf(address(escrow)), 0, "nothing left");
    }

    function test_close_reverts_when_the_refund_fails_and_settle_still_pays() public {
        BlockingToken token = new BlockingToken();
        _fund(address(token), payer);
        IChannelEscrow.ChannelDescriptor memory channel = _opened(address(token));
        token.block_(payer);
        bytes memory expected = abi.encodeWithSelector(BlockingToken.Blocked.selector, payer);
        _call(payee, _closeData(channel, 5, 5), expected);
        _call(payee, _settleData(channel, 5, 5));
        vm.assertEq(token.balanceOf(payee), 5, "paid");
        _call(payee, _closeData(channel, DEPOSIT, DEPOSIT));
        vm.assertEq(token.balanceOf(payee), DEPOSIT, "paid in full");
    }

    function test_close_reverts_when_the_payer_refuses_native_coin_and_settle_still_pays() public {
        RefusingAccount account = new RefusingAccount();
        account.fund{value: 0}();
        vm.deal(address(account), DEPOSIT);
        IChannelEscrow.ChannelDescriptor memory channel = _channel(NATIVE);
        channel.payer = address(account);
        account.act(address(escrow), DEPOSIT, _openData(channel, DEPOSIT));
        bytes memory expected = abi.encodeWithSelector(RefusingAccount.Refused.selector);
        _call(payee, _closeData(channel, 5, 5), expected);
        _call(payee, _settleData(channel, 5, 5));
        vm.assertEq(payee.balance, 5, "paid");
    }

    function testFuzz_capture_reverts_when_the_payee_cannot_be_paid(bool closing) public {
        BlockingToken token = new BlockingToken();
        _fund(address(token), payer);
        IChannelEscrow.ChannelDescriptor memory channel = _opened(address(token));
        token.block_(payee);
        bytes memory expected = abi.encodeWithSelector(BlockingToken.Blocked.selector, payee);
        _call(payee, _captureData(closing, channel, 5, 5), expected);
        _checkState(channel, DEPOSIT, 0, 0, false);
        _call(payer, abi.encodeCall(IChannelEscrow.requestClose, (channel)));
        vm.warp(START + 900);
        _call(payer, abi.encodeCall(IChannelEscrow.withdraw, (channel)));
    }

    function testFuzz_capture_cannot_be_entered_again_by_a_token(bool closing) public {
        ReentrantToken token = new ReentrantToken();
        _fund(address(token), payer);
        IChannelEscrow.ChannelDescriptor memory channel = _channel(address(token));
        channel.payee = address(token);
        _open(channel, DEPOSIT);
        token.arm(address(escrow), _settleData(channel, 9, 9));
        _call(address(token), _captureData(closing, channel, 5, 5));
        vm.assertEq(token.called(), true, "called back");
        vm.assertEq(token.succeeded(), false, "entered again");
        _checkState(channel, DEPOSIT, 5, 0, closing);
    }

    function testFuzz_capture_cannot_be_entered_again_by_a_payee(bool closing) public {
        ReentrantAccount account = new ReentrantAccount();
        IChannelEscrow.ChannelDescriptor memory channel = _channel(NATIVE);
        channel.payee = address(account);
        _open(channel, DEPOSIT);
        account.arm(address(escrow), _settleData(channel, 9, 9));
        account.act(address(escrow), 0, _captureData(closing, channel, 5, 5));
        vm.assertEq(account.called(), true, "called back");
        vm.assertEq(account.succeeded(), false, "entered again");
        _checkState(channel, DEPOSIT, 5, 0, closing);
    }

    function test_close_shows_its_outcome_to_whoever_it_pays() public {
        ReentrantAccount account = new ReentrantAccount();
        vm.deal(address(account), DEPOSIT);
        IChannelEscrow.ChannelDescriptor memory channel = _channel(NATIVE);
        channel.payer = address(account);
        account.act(address(escrow), DEPOSIT, _openData(channel, DEPOSIT));
        account.arm(address(escrow), abi.encodeCall(IChannelEscrow.getChannel, (_id(channel))));
        _call(payee, _closeData(channel, 5, 5));
        IChannelEscrow.ChannelState memory seen = abi.decode(account.result(), (IChannelEscrow.ChannelState));
        vm.assertEq(seen.settled, 5, "settled");
        vm.assertEq(seen.finalized, true, "finalized");
    }
}
