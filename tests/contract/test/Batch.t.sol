// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IChannelEscrow} from "microwallet/escrow/contract/IChannelEscrow.sol";
import {ReentrantAccount, RefusingAccount} from "../src/Accounts.sol";
import {Fixture} from "../src/Fixture.sol";
import {BlockingToken, PlainToken} from "../src/Tokens.sol";

/// @notice Cases of settleBatch.tree and closeBatch.tree. What both share is tested for both.
contract BatchTest is Fixture {
    function _batchData(bool closing, IChannelEscrow.Capture[] memory items) private pure returns (bytes memory) {
        if (closing) return abi.encodeCall(IChannelEscrow.closeBatch, (items));
        return abi.encodeCall(IChannelEscrow.settleBatch, (items));
    }

    /// @dev Item i captures i + 1 of a voucher over 100.
    function _items(address token, uint256 size) private returns (IChannelEscrow.Capture[] memory items) {
        items = new IChannelEscrow.Capture[](size);
        for (uint256 i = 0; i < size; ++i) {
            items[i] = _item(_opened(token), 100, uint128(i + 1));
        }
    }

    function testFuzz_batch_captures_every_item(bool closing, uint8 size, bool native) public {
        address token = native ? NATIVE : address(usdc);
        IChannelEscrow.Capture[] memory items = _items(token, size % 12);
        uint256 payerBefore = _tokenBalance(token, payer);
        _call(payee, _batchData(closing, items));
        uint256 total = items.length * (items.length + 1) / 2;
        vm.assertEq(_tokenBalance(token, payee), total, "paid");
        uint256 refunds = closing ? items.length * DEPOSIT - total : 0;
        vm.assertEq(_tokenBalance(token, payer) - payerBefore, refunds, "refunded");
        for (uint256 i = 0; i < items.length; ++i) {
            _checkState(items[i].channel, DEPOSIT, i + 1, 0, closing);
        }
    }

    function testFuzz_batch_emits_for_every_item(bool closing) public {
        IChannelEscrow.Capture[] memory items = _items(address(usdc), 3);
        bytes memory data = _batchData(closing, items);
        for (uint256 i = 0; i < items.length; ++i) {
            vm.expectEmit(address(escrow));
            bytes32 channelId = _id(items[i].channel);
            if (closing) emit IChannelEscrow.ChannelClosed(channelId, payer, payee, i + 1, DEPOSIT - i - 1);
            else emit IChannelEscrow.Settled(channelId, payer, payee, i + 1, i + 1);
        }
        _call(payee, data);
    }

    function testFuzz_batch_pays_the_payee_once_for_a_run_of_a_token(bool closing) public {
        IChannelEscrow.Capture[] memory items = _items(address(usdc), 4);
        vm.expectCall(address(usdc), abi.encodeCall(usdc.transfer, (payee, 10)), 1);
        _call(payee, _batchData(closing, items));
    }

    function testFuzz_batch_takes_tokens_in_any_order(bool closing) public {
        PlainToken other = new PlainToken();
        _fund(address(other), payer);
        IChannelEscrow.Capture[] memory items = new IChannelEscrow.Capture[](5);
        items[0] = _item(_opened(address(usdc)), 100, 1);
        items[1] = _item(_opened(NATIVE), 100, 20);
        items[2] = _item(_opened(address(other)), 100, 3);
        items[3] = _item(_opened(address(usdc)), 100, 4);
        items[4] = _item(_opened(NATIVE), 100, 50);
        _call(payee, _batchData(closing, items));
        vm.assertEq(usdc.balanceOf(payee), 5, "USDC");
        vm.assertEq(other.balanceOf(payee), 3, "other token");
        vm.assertEq(payee.balance, 70, "native coin");
    }

    function test_batch_settles_one_channel_twice_only_upwards() public {
        IChannelEscrow.ChannelDescriptor memory channel = _opened(address(usdc));
        IChannelEscrow.Capture[] memory items = new IChannelEscrow.Capture[](2);
        items[0] = _item(channel, 5, 5);
        items[1] = _item(channel, 5, 5);
        bytes memory expected = _error(IChannelEscrow.AmountNotIncreasing.selector, 5, 5);
        _call(payee, _batchData(false, items), expected);
        items[1] = _item(channel, 7, 7);
        _call(payee, _batchData(false, items));
        vm.assertEq(usdc.balanceOf(payee), 7, "paid");
    }

    function test_batch_closes_one_channel_once() public {
        IChannelEscrow.ChannelDescriptor memory channel = _opened(address(usdc));
        _opened(address(usdc));
        IChannelEscrow.Capture[] memory items = new IChannelEscrow.Capture[](2);
        items[0] = items[1] = _item(channel, 5, 5);
        bytes memory expected = _error(IChannelEscrow.ChannelFinalized.selector, _id(channel));
        _call(payee, _batchData(true, items), expected);
    }

    function testFuzz_batch_refuses_the_channels_of_another_payee(bool closing) public {
        IChannelEscrow.Capture[] memory items = _items(address(usdc), 3);
        bytes memory data = _batchData(closing, items);
        _call(stranger, data, _error(IChannelEscrow.NotPayee.selector, stranger, payee));
        IChannelEscrow.ChannelDescriptor memory theirs = _channel(address(usdc));
        theirs.payee = stranger;
        _open(theirs, DEPOSIT);
        items[2] = _item(theirs, 100, 3);
        bytes memory expected = _error(IChannelEscrow.NotPayee.selector, payee, stranger);
        _call(payee, _batchData(closing, items), expected);
    }

    function testFuzz_batch_fails_as_a_whole(bool closing, uint8 position, uint8 kind) public {
        IChannelEscrow.Capture[] memory items = _items(address(usdc), 4);
        IChannelEscrow.Capture memory bad = items[position % 4];
        bytes memory expected;
        kind = kind % 5;
        if (kind == 0) {
            bad.signature = _highS(bad.signature);
            expected = _invalidSignature(signer, _voucherDigest(bad.channel, 100));
        } else if (kind == 1) {
            bad.captureAmount = 101;
            expected = _error(IChannelEscrow.CaptureAmountInvalid.selector, 101, 100);
        } else if (kind == 2) {
            bad.cumulativeAmount = bad.captureAmount = DEPOSIT + 1;
            expected = _error(IChannelEscrow.AmountExceedsDeposit.selector, DEPOSIT + 1, DEPOSIT);
        } else if (kind == 3) {
            bad.channel = _channel(address(usdc));
            expected = _error(IChannelEscrow.ChannelNotFound.selector, _id(bad.channel));
        } else {
            _call(payee, _closeData(bad.channel, 0, 0));
            expected = _error(IChannelEscrow.ChannelFinalized.selector, _id(bad.channel));
        }
        uint256 held = usdc.balanceOf(address(escrow));
        _call(payee, _batchData(closing, items), expected);
        vm.assertEq(usdc.balanceOf(address(escrow)), held, "nothing moved");
    }

    function testFuzz_batch_fails_with_a_hostile_token_among_the_items(bool closing, uint8 position) public {
        BlockingToken token = new BlockingToken();
        _fund(address(token), payer);
        IChannelEscrow.Capture[] memory items = _items(address(usdc), 3);
        items[position % 3] = _item(_opened(address(token)), 100, 1);
        token.block_(payee);
        bytes memory expected = abi.encodeWithSelector(BlockingToken.Blocked.selector, payee);
        _call(payee, _batchData(closing, items), expected);
    }

    function test_batch_close_fails_when_one_payer_refuses_and_settles_without() public {
        RefusingAccount account = new RefusingAccount();
        vm.deal(address(account), DEPOSIT);
        IChannelEscrow.ChannelDescriptor memory channel = _channel(NATIVE);
        channel.payer = address(account);
        account.act(address(escrow), DEPOSIT, _openData(channel, DEPOSIT));
        IChannelEscrow.Capture[] memory items = _items(NATIVE, 3);
        items[1] = _item(channel, 100, 2);
        _call(payee, _batchData(true, items), abi.encodeWithSelector(RefusingAccount.Refused.selector));
        _call(payee, _batchData(false, items));
        vm.assertEq(payee.balance, 6, "paid");
    }

    function test_batch_close_cannot_be_entered_again_by_a_payer() public {
        ReentrantAccount account = new ReentrantAccount();
        vm.deal(address(account), 2 * DEPOSIT);
        IChannelEscrow.ChannelDescriptor memory channel = _channel(NATIVE);
        channel.payer = address(account);
        account.act(address(escrow), DEPOSIT, _openData(channel, DEPOSIT));
        IChannelEscrow.ChannelDescriptor memory other = _channel(NATIVE);
        other.payer = address(account);
        account.arm(address(escrow), _openData(other, DEPOSIT));
        IChannelEscrow.Capture[] memory items = _items(NATIVE, 3);
        items[0] = _item(channel, 100, 1);
        _call(payee, _batchData(true, items));
        vm.assertEq(account.called(), true, "called back");
        vm.assertEq(account.succeeded(), false, "entered again");
        vm.assertEq(payee.balance, 6, "paid");
    }

    function test_batch_close_without_captures_needs_no_vouchers() public {
        IChannelEscrow.Capture[] memory items = new IChannelEscrow.Capture[](2);
        items[0] = IChannelEscrow.Capture(_settled(address(usdc), 5), 5, 5, "");
        items[1] = IChannelEscrow.Capture(_opened(address(usdc)), 0, 0, "");
        _call(payee, _batchData(true, items));
        _checkState(items[0].channel, DEPOSIT, 5, 0, true);
        _checkState(items[1].channel, DEPOSIT, 0, 0, true);
    }
}
